"""What does a feature or an ensemble stand for? Judges that grade texts, explainers, and scorers of explanations."""
