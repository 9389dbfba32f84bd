from metaflow import FlowSpec, step, current, Flow, Parameter, retry, card, timeout
from ckptfs.metaflow import checkpoint


class CheckpointXGBoost(FlowSpec):
    rounds = Parameter("rounds", help="number of boosting rounds", default=128)

    @step
    def start(self):
        from sklearn.datasets import load_breast_cancer

        self.X, self.y = load_breast_cancer(return_X_y=True)
        self.next(self.train)

    @timeout(seconds=15)
    @card
    @retry
    @checkpoint
    @step
    def train(self):
        import xgboost as xgb
        from xgboost_checkpointer import Checkpointer

        if current.checkpoint.is_loaded:
            cp_model = Checkpointer.load()
            cp_rounds = cp_model.num_boosted_rounds()
            print(f"Checkpoint was trained for {cp_rounds} rounds")
        else:
            cp_model = None
            cp_rounds = 0

        model = xgb.XGBClassifier(
            n_estimators=self.rounds - cp_rounds, eval_metric="logloss", callbacks=[Checkpointer()]
        )
        model.fit(self.X, self.y, eval_set=[(self.X, self.y)], xgb_model=cp_model)

        assert model.get_booster().num_boosted_rounds() == self.rounds
        print("Training completed!")
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    CheckpointXGBoost()
